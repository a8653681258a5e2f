# The dynamic-capacity style of mixture (spec 10.1).
um_test(test_dynamic SOURCES core/nn/test_dynamic.c support/dynamic_layer.c support/made_params.c LIBS um_test_fixture um_nn)
um_test(test_dynamic_cluster SOURCES cluster/test_dynamic_cluster.c support/dynamic_layer.c support/made_params.c support/golden.c LIBS um_test_fixture um_cluster um_launch)
um_test(test_dynamic_model SOURCES core/nn/test_dynamic_model.c support/dynamic_layer.c support/made_params.c support/edit.c LIBS um_test_fixture um_launch um_nn)
