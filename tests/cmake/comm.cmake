# Transport tests, and um_mpi_test for everybody: include(${CMAKE_CURRENT_LIST_DIR}/comm.cmake) before using it.
include_guard(GLOBAL)

# um_mpi_test(NAME target NP 2 3 5 8 [ARGS ...] [TIMEOUT s] [FAILS regex]) runs the program `target` under mpirun once for each number
# of ranks, as NAME_np2, NAME_np3, ... (label mpi). FAILS: the run must end with an error and print something that fits regex.
# Sanitizers do not know Open MPI's own memory, so those builds test threads only.
function(um_mpi_test name target)
  cmake_parse_arguments(T "" "TIMEOUT;FAILS" "NP;ARGS" ${ARGN})
  if(UM_SANITIZE OR NOT MPIEXEC_EXECUTABLE)
    return()
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT ${UM_TEST_SECONDS})
  endif()
  foreach(np IN LISTS T_NP)
    set(command ${MPIEXEC_EXECUTABLE} --allow-run-as-root --oversubscribe --bind-to none --mca pmdl ^ompi -np ${np} $<TARGET_FILE:${target}> ${T_ARGS})
    if(T_FAILS)
      set(command ${CMAKE_SOURCE_DIR}/tests/expect_failure.sh ${T_FAILS} ${command})
    endif()
    add_test(NAME ${name}_np${np} COMMAND ${command} WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
    set_tests_properties(${name}_np${np} PROPERTIES TIMEOUT ${T_TIMEOUT} LABELS mpi PROCESSORS 2)
  endforeach()
endfunction()

um_test(test_topology SOURCES core/comm/test_topology.c LIBS um_test_fixture um_transport)
um_test(test_placement SOURCES core/comm/test_placement.c LIBS um_test_fixture um_transport)
um_test(test_comm SOURCES core/comm/test_comm.c LIBS um_transport)
um_test(test_pulse SOURCES core/comm/test_pulse.c LIBS um_transport)
um_test(test_cpus SOURCES core/base/test_cpus.c LIBS um_base)
um_test(test_doorbell SOURCES core/comm/test_doorbell.c LIBS um_transport)
um_test(test_alive SOURCES core/comm/test_alive.c LIBS um_transport)
um_test(test_watch SOURCES core/comm/test_watch.c LIBS um_transport)

add_executable(mpi_comm programs/mpi_comm.c)
target_link_libraries(mpi_comm PRIVATE um_comm_mpi)
set_target_properties(mpi_comm PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
um_mpi_test(mpi_comm mpi_comm NP 1 2 3 5 8)
um_mpi_test(mpi_comm_killed mpi_comm NP 2 5 ARGS killed
            FAILS "rank [0-9]+: router/[0-9]+ .rank [0-9]+, host [^,]+, pid [0-9]+. is gone")
um_mpi_test(mpi_comm_failing mpi_comm NP 2 5 ARGS failing
            FAILS "rank 0: router/[0-9]+ .rank [0-9]+, host [^,]+, pid [0-9]+. ended the job")
um_mpi_test(mpi_comm_stopped mpi_comm NP 3 ARGS stopped
            FAILS "router/2 .rank 2, host [^,]+, pid [0-9]+. was stopped by a signal")

# Not a measurement: that the bench runs.
if(TARGET bench_comm)
  um_mpi_test(bench_comm_runs bench_comm NP 3 ARGS --layers 50 --idle 0)
endif()
