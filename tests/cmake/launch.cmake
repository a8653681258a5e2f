# The option table, the unimoe command, and the files that are made from them.
um_test(test_config SOURCES core/options/test_config.c LIBS um_options)
um_test(test_process SOURCES core/base/test_process.c LIBS um_base)
foreach(name test_mpirun_line test_mpirun_output test_results test_training_plan)
  um_test(${name} SOURCES launch/${name}.c support/launch_fixture.c LIBS um_launch um_towers)
endforeach()
um_test(test_run SOURCES launch/test_run.c LIBS um_launch)

# The command line, without ranks. Starts mpirun (doctor does), so it runs in that ring.
add_test(NAME test_cli COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_cli.py $<TARGET_FILE:unimoe> ${CMAKE_SOURCE_DIR})
set_tests_properties(test_cli PROPERTIES LABELS mpi TIMEOUT ${UM_TEST_SECONDS})

# Model folders as people have them; starts no ranks.
add_test(NAME test_model_folders COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_model_folders.py $<TARGET_FILE:unimoe>)
set_tests_properties(test_model_folders PROPERTIES TIMEOUT ${UM_TEST_SECONDS})

# Files of requests through jobs under mpirun.
add_test(NAME test_requests COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_requests.py $<TARGET_FILE:unimoe> ${CMAKE_SOURCE_DIR})
set_tests_properties(test_requests PROPERTIES LABELS mpi TIMEOUT ${UM_TEST_SECONDS})

# The launcher on machines that lack something, with readers that go away, and stopped by signals. Starts mpirun.
if(NOT UM_SANITIZE)
  add_test(NAME e2e_launch COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_launch.py ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  set_tests_properties(e2e_launch PROPERTIES LABELS mpi TIMEOUT ${UM_TEST_SECONDS} PROCESSORS 2)
endif()

# The scripts for Slurm, as it runs them. Starts mpirun.
if(NOT UM_SANITIZE)
  add_test(NAME e2e_slurm COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_slurm.py ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
  set_tests_properties(e2e_slurm PROPERTIES LABELS mpi TIMEOUT ${UM_TEST_SECONDS} PROCESSORS 2 SKIP_RETURN_CODE 77)
endif()

# The small world that models are trained on; made with packages, without which it is skipped. No code of ours in C runs.
if(NOT UM_SANITIZE)
  add_test(NAME test_world COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_world.py ${CMAKE_SOURCE_DIR})
  set_tests_properties(test_world PROPERTIES TIMEOUT ${UM_TEST_SECONDS} PROCESSORS 2 SKIP_RETURN_CODE 77)
endif()
