# Evaluation: metrics and the formats of benchmarks.
um_test(test_metrics SOURCES launch/eval/test_metrics.c LIBS um_test_fixture um_eval)
um_test(test_eval_read SOURCES launch/eval/test_eval_read.c LIBS um_test_fixture um_eval)
um_test(test_eval_run SOURCES launch/eval/test_eval_run.c LIBS um_test_fixture um_eval um_options)
if(NOT UM_SANITIZE)
  add_test(NAME e2e_eval COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_eval.py ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  set_tests_properties(e2e_eval PROPERTIES LABELS mpi TIMEOUT ${UM_TEST_SECONDS} PROCESSORS 2 SKIP_RETURN_CODE 77)
endif()
