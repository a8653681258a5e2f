add_executable(bench_comm ${CMAKE_CURRENT_LIST_DIR}/bench_comm.c)
target_link_libraries(bench_comm PRIVATE um_comm_mpi)
set_target_properties(bench_comm PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
