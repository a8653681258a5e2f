# Runs a whole cluster as threads, as the tests do; without the tests there is none.
if(UM_TESTS)
  add_executable(bench_pingpong ${CMAKE_CURRENT_LIST_DIR}/bench_pingpong.c)
  target_link_libraries(bench_pingpong PRIVATE um_cluster)
  set_target_properties(bench_pingpong PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
endif()
