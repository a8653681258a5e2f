# The converter of released checkpoints, and what it is made of.
um_test(test_sha256 SOURCES core/base/test_sha256.c LIBS um_base)
um_test(test_torch SOURCES launch/test_torch.c LIBS um_launch)

# Whole conversions; made with torch, without which they are skipped. The last part also runs what was made, and so starts mpirun.
foreach(part models itself experts refused files back golden)
  if(UM_SANITIZE AND part STREQUAL golden)
    continue()
  endif()
  add_test(NAME convert_${part} COMMAND /usr/bin/python3 -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_convert.py ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR} ${part})
  set_tests_properties(convert_${part} PROPERTIES TIMEOUT ${UM_TEST_SECONDS} SKIP_RETURN_CODE 77)
  if(part STREQUAL golden)
    set_tests_properties(convert_${part} PROPERTIES LABELS mpi PROCESSORS 2)
  endif()
endforeach()

# Mixtures of experts, assembled of dense models. The last parts also run what was made, and so start mpirun.
foreach(part files refused answers trained)
  if(UM_SANITIZE AND part MATCHES "answers|trained")
    continue()
  endif()
  add_test(NAME assemble_${part} COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_assemble.py ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR} ${part})
  set_tests_properties(assemble_${part} PROPERTIES TIMEOUT ${UM_TEST_SECONDS} SKIP_RETURN_CODE 77)
  if(part MATCHES "answers|trained")
    set_tests_properties(assemble_${part} PROPERTIES LABELS mpi PROCESSORS 2)
  endif()
endforeach()
