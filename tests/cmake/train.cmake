um_test(test_schedule SOURCES core/train/test_schedule.c LIBS um_test_support um_train)
um_test(test_select SOURCES core/train/test_select.c support/test_support.c LIBS um_test_fixture um_train)
um_test(test_saved SOURCES core/train/test_saved.c support/test_support.c LIBS um_test_fixture um_train)
um_test(test_backward SOURCES cluster/test_backward.c support/test_support.c support/dynamic_layer.c support/made_params.c LIBS um_test_fixture um_cluster um_launch)
