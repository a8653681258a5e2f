add_executable(bench_vision ${CMAKE_CURRENT_LIST_DIR}/bench_vision.c)
target_link_libraries(bench_vision PRIVATE um_towers um_flags)
set_target_properties(bench_vision PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
# Not a measurement: that the program runs.
add_test(NAME bench_vision_runs COMMAND bench_vision --rounds 1 --layers 1 --image-size 28)
set_tests_properties(bench_vision_runs PROPERTIES TIMEOUT 120)
