add_executable(bench_encoders ${CMAKE_CURRENT_LIST_DIR}/bench_encoders.c)
target_link_libraries(bench_encoders PRIVATE um_towers um_flags)
set_target_properties(bench_encoders PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
# Not a measurement: that the program runs, on a model with speech and on one with sound.
foreach(model IN ITEMS s4 a4)
  add_test(NAME bench_encoders_runs_${model} COMMAND bench_encoders --rounds 1 --seconds 1 --model ${CMAKE_SOURCE_DIR}/tests/golden/models/${model})
  set_tests_properties(bench_encoders_runs_${model} PROPERTIES TIMEOUT 120)
endforeach()
