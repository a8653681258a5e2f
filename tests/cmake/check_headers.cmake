# Every header must compile alone: one source for each, which includes it twice. The build is the test.
set(sources "")
foreach(dir IN ITEMS core proto gateway router expert_worker encoder_worker launch bench tests)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/${dir}/*.h)
  foreach(header IN LISTS headers)
    string(MAKE_C_IDENTIFIER ${header} name)
    set(source ${CMAKE_CURRENT_BINARY_DIR}/check_headers/${name}.c)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${header}\"\n#include \"${header}\"\nextern int ${name};\n" @ONLY)
    list(APPEND sources ${source})
  endforeach()
endforeach()

add_library(check_headers OBJECT ${sources})
target_link_libraries(check_headers PRIVATE um_flags)
foreach(lib IN ITEMS um_proto um::cmocka MPI::MPI_C) # generated messages, the header of the test helpers, mpi.h
  if(TARGET ${lib})
    target_link_libraries(check_headers PRIVATE ${lib})
  endif()
endforeach()
