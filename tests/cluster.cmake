add_library(um_cluster STATIC ${CMAKE_CURRENT_LIST_DIR}/cluster.c)
target_link_libraries(um_cluster PUBLIC um_router um_expert um_encoder um_comm um_nn)

um_test(test_nn_grad SOURCES test_nn_grad.c LIBS um_nn)
um_test(test_exchange SOURCES test_exchange.c LIBS um_comm um_nn)
um_test(test_cluster SOURCES test_cluster.c golden.c LIBS um_cluster)
um_test(test_faults SOURCES test_faults.c LIBS um_cluster)
um_test(test_media_desk SOURCES test_media_desk.c test_support.c LIBS um_cluster)

# Whole jobs under mpirun (label mpi); sanitizers do not know Open MPI's memory.
if(NOT UM_SANITIZE)
  add_executable(golden_compare golden_compare.c golden.c)
  target_link_libraries(golden_compare PRIVATE um_nn)
  set_target_properties(golden_compare PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  foreach(part golden bits hand faults models memory hosts idle)
    add_test(NAME e2e_${part} COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/test_e2e.py ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR} ${part})
    set_tests_properties(e2e_${part} PROPERTIES LABELS mpi TIMEOUT 600 PROCESSORS 2 SKIP_RETURN_CODE 77)
  endforeach()
endif()
