# Routing counters and their images.
um_test(test_routing SOURCES router/test_routing.c LIBS um_test_fixture um_cluster um_launch)
add_test(NAME test_plot COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_plot.py $<TARGET_FILE:unimoe>)
set_tests_properties(test_plot PROPERTIES TIMEOUT ${UM_TEST_SECONDS})
um_fuzz(routes MUTATIONS 3000 SOURCES fuzz/fuzz_file.c LIBS um_launch)
um_fuzz(run_log MUTATIONS 3000 SOURCES fuzz/fuzz_file.c LIBS um_launch)
