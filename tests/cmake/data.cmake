# Training data: samples and their labels, files, their order, their faults.
um_test(test_sample SOURCES router/data/test_sample.c LIBS um_test_fixture um_test_support um_router)
um_test(test_dataset SOURCES router/data/test_dataset.c LIBS um_test_fixture um_test_support um_router)
um_test(test_order SOURCES router/data/test_order.c LIBS um_test_fixture um_test_support um_router)
um_test(test_data_check SOURCES router/data/test_data_check.c LIBS um_test_fixture um_test_support um_router)
um_test(test_check_data SOURCES launch/test_check_data.c LIBS um_test_fixture um_test_support um_launch)
target_compile_definitions(test_check_data PRIVATE UM_DECODER="$<TARGET_FILE:unimoe-decoder>")
add_dependencies(test_check_data unimoe-decoder)
