# um_fuzz(NAME SOURCES... LIBS... MUTATIONS n): a decoder under fuzzing (label fuzz). With UM_FUZZ a libFuzzer program, to be run by
# hand as long as one likes: build/fuzz/tests/fuzz_NAME tests/corpus/NAME. In any build ctest replays the corpus and mutations of it.
if(UM_FUZZ AND NOT CMAKE_C_COMPILER_ID MATCHES Clang)
  message(FATAL_ERROR "UM_FUZZ needs clang (libFuzzer): use the preset fuzz")
endif()

function(um_fuzz name)
  cmake_parse_arguments(F "" "MUTATIONS" "SOURCES;LIBS" ${ARGN})
  set(program fuzz_${name})
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/corpus/${name})
  add_executable(${program} fuzz/fuzz_${name}.c ${F_SOURCES})
  target_link_libraries(${program} PRIVATE ${F_LIBS} um_flags)
  set_target_properties(${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(UM_FUZZ)
    target_link_options(${program} PRIVATE -fsanitize=fuzzer)
    set(found ${CMAKE_BINARY_DIR}/corpus/${name}) # libFuzzer adds what it finds to the first folder
    file(MAKE_DIRECTORY ${found})
    add_test(NAME ${program} COMMAND ${program} -runs=${F_MUTATIONS} -seed=1 -timeout=20 -rss_limit_mb=4096
                                     -artifact_prefix=${CMAKE_BINARY_DIR}/ ${found} ${corpus})
  else()
    target_sources(${program} PRIVATE fuzz/fuzz_replay.c)
    target_link_libraries(${program} PRIVATE um_base)
    add_test(NAME ${program} COMMAND ${program} ${corpus} ${F_MUTATIONS})
  endif()
  set_tests_properties(${program} PROPERTIES LABELS fuzz TIMEOUT ${UM_TEST_SECONDS})
endfunction()

if(UM_FUZZ)
  target_compile_options(um_flags INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(um_flags INTERFACE -fsanitize=fuzzer-no-link)
  # No decoder is in the kernels, and clang takes minutes to instrument them with all of it at once.
  foreach(kernels IN ITEMS cpu_generic.c cpu_avx2.c cpu_avx512.c)
    set_property(SOURCE ${CMAKE_SOURCE_DIR}/core/tensor/${kernels} TARGET_DIRECTORY um_tensor
                 APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=all)
  endforeach()
endif()

um_fuzz(frame MUTATIONS 20000 LIBS um_proto um_base)
um_fuzz(codec MUTATIONS 5000 LIBS um_proto um_base)
um_fuzz(json MUTATIONS 20000 LIBS um_base)
um_fuzz(safetensors MUTATIONS 3000 SOURCES fuzz/fuzz_file.c LIBS um_nn um_base)
um_fuzz(model MUTATIONS 3000 SOURCES fuzz/fuzz_file.c LIBS um_model um_base)
um_fuzz(image MUTATIONS 8000 LIBS um_images um_base)
um_fuzz(torch MUTATIONS 5000 SOURCES fuzz/fuzz_file.c LIBS um_launch um_base)
um_fuzz(pickle MUTATIONS 20000 LIBS um_launch um_base)
um_fuzz(media MUTATIONS 1500 LIBS um_decode um_base)
