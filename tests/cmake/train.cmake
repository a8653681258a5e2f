um_test(test_schedule SOURCES core/train/test_schedule.c LIBS um_test_support um_train)
