add_executable(bench_codec ${CMAKE_CURRENT_LIST_DIR}/bench_codec.c)
target_link_libraries(bench_codec PRIVATE um_flags um_base um_proto)
set_target_properties(bench_codec PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
# Not a measurement: that the program runs, and that what it decodes is what it encoded.
add_test(NAME bench_codec_runs COMMAND bench_codec --seconds 0)
set_tests_properties(bench_codec_runs PROPERTIES TIMEOUT 120)
