add_executable(bench_sound ${CMAKE_CURRENT_LIST_DIR}/bench_sound.c)
target_link_libraries(bench_sound PRIVATE um_media um_flags)
set_target_properties(bench_sound PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
# Not a measurement: that the program runs.
add_test(NAME bench_sound_runs COMMAND bench_sound --rounds 1 --layers 1 --seconds 1)
set_tests_properties(bench_sound_runs PROPERTIES TIMEOUT 120)
