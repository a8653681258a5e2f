# Outside libraries, each an imported target um::NAME. Debian package names stand in the messages.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

function(um_need name module package)
  pkg_check_modules(${name} QUIET IMPORTED_TARGET GLOBAL ${module})
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "${module} not found: apt-get install ${package}")
  endif()
  add_library(um::${name} ALIAS PkgConfig::${name})
endfunction()

um_need(jansson jansson libjansson-dev)
um_need(crypto libcrypto libssl-dev)
um_need(zstd libzstd libzstd-dev)
um_need(protobufc libprotobuf-c libprotobuf-c-dev)
um_need(sentencepiece sentencepiece libsentencepiece-dev)
um_need(png libpng libpng-dev)
um_need(jpeg libjpeg libjpeg-dev)
if(UM_TESTS)
  um_need(cmocka cmocka libcmocka-dev)
endif()
um_need(xxhash libxxhash libxxhash-dev)

find_program(PROTOC_C protoc-c)
if(NOT PROTOC_C)
  message(FATAL_ERROR "protoc-c not found: apt-get install protobuf-c-compiler")
endif()

find_package(MPI COMPONENTS C)
if(NOT MPI_C_FOUND)
  message(FATAL_ERROR "MPI not found: apt-get install libopenmpi-dev openmpi-bin")
endif()

if(UM_OPENMP)
  find_package(OpenMP COMPONENTS C)
endif()

# Only bench compares with these; absent is fine.
find_library(UM_DNNL dnnl)
find_library(UM_OPENBLAS openblas)
