# Tests of the sources themselves (label checks): floors and doors, style, formatting. Each check proves on a copy with planted
# violations that it would find them.
find_package(Python3 COMPONENTS Interpreter)
if(NOT Python3_FOUND)
  message(FATAL_ERROR "python3 not found: apt-get install python3")
endif()

foreach(check IN ITEMS floors style)
  add_test(NAME check_${check} COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/checks/check_${check}.py)
  add_test(NAME check_${check}_self COMMAND Python3::Interpreter -B ${CMAKE_CURRENT_SOURCE_DIR}/checks/check_${check}.py --self-test)
  set_tests_properties(check_${check} check_${check}_self PROPERTIES LABELS checks TIMEOUT ${UM_TEST_SECONDS})
endforeach()

# 77: no clang-format of the version that the style file is written for.
add_test(NAME check_format COMMAND sh ${CMAKE_SOURCE_DIR}/cmake/format.sh --check)
set_tests_properties(check_format PROPERTIES LABELS checks TIMEOUT ${UM_TEST_SECONDS} SKIP_RETURN_CODE 77)

# A library that is installed but requires another one that is not: configure says which, in pkg-config's words.
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/broken/sentencepiece.pc "Name: sentencepiece
Description: requires what is not there
Version: 0.2.0
Requires: um-absent
")
add_test(NAME check_configure
         COMMAND ${CMAKE_SOURCE_DIR}/tests/expect_failure.sh "um-absent.*required by 'sentencepiece'"
                 env PKG_CONFIG_PATH=${CMAKE_CURRENT_BINARY_DIR}/broken ${CMAKE_COMMAND} -G Ninja -S ${CMAKE_SOURCE_DIR} -B ${CMAKE_CURRENT_BINARY_DIR}/broken/build)
set_tests_properties(check_configure PROPERTIES LABELS checks TIMEOUT ${UM_TEST_SECONDS})

# What tests/run makes of workflows that fail.
add_test(NAME check_run COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/checks/check_run.sh ${CMAKE_SOURCE_DIR})
set_tests_properties(check_run PROPERTIES LABELS checks TIMEOUT ${UM_TEST_SECONDS})
