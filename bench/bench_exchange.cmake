add_executable(bench_exchange ${CMAKE_CURRENT_LIST_DIR}/bench_exchange.c)
target_link_libraries(bench_exchange PRIVATE um_comm um_comm_mpi MPI::MPI_C)
set_target_properties(bench_exchange PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
