# Outside libraries, each an imported target um::NAME. Debian package names stand in the messages.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)

# um_need(NAME MODULE PACKAGE): pkg-config's MODULE as um::NAME. When it cannot be used pkg-config's own reason is shown, for the package
# may well be there and another one that its .pc file names be missing.
function(um_need name module package)
  pkg_check_modules(${name} QUIET IMPORTED_TARGET GLOBAL ${module})
  if(NOT ${name}_FOUND)
    execute_process(COMMAND ${PKG_CONFIG_EXECUTABLE} --print-errors --exists ${module}
                    ERROR_VARIABLE reason OUTPUT_VARIABLE reason ERROR_STRIP_TRAILING_WHITESPACE)
    string(REPLACE "\n" "\n  " reason "  ${reason}")
    message(FATAL_ERROR "${module} cannot be used:\n${reason}\napt-get install ${package}\n"
                        "(launch/install-packages build installs everything that is needed.)")
  endif()
  add_library(um::${name} ALIAS PkgConfig::${name})
endfunction()

um_need(jansson jansson libjansson-dev)
um_need(crypto libcrypto libssl-dev)
um_need(zstd libzstd libzstd-dev)
um_need(protobufc libprotobuf-c libprotobuf-c-dev)
# From 0.2 on sentencepiece.pc requires protobuf-lite, which its package does not depend on.
um_need(sentencepiece sentencepiece "libsentencepiece-dev libprotobuf-dev")
um_need(png libpng libpng-dev)
um_need(jpeg libjpeg libjpeg-dev)
um_need(webp libwebp libwebp-dev)
um_need(webpdemux libwebpdemux libwebp-dev)
um_need(tiff libtiff-4 libtiff-dev)
um_need(avif libavif libavif-dev)
um_need(avformat libavformat libavformat-dev)
um_need(avcodec libavcodec libavcodec-dev)
um_need(avutil libavutil libavutil-dev)
um_need(swscale libswscale libswscale-dev)
um_need(sndfile sndfile libsndfile1-dev)
um_need(soxr soxr libsoxr-dev)
um_need(seccomp libseccomp libseccomp-dev)
if(UM_TESTS)
  um_need(cmocka cmocka libcmocka-dev)
endif()
um_need(xxhash libxxhash libxxhash-dev)

# giflib has no pkg-config file.
find_path(UM_GIF_INCLUDE gif_lib.h)
find_library(UM_GIF_LIBRARY gif)
if(NOT UM_GIF_INCLUDE OR NOT UM_GIF_LIBRARY)
  message(FATAL_ERROR "giflib not found: apt-get install libgif-dev")
endif()
add_library(um_giflib INTERFACE)
target_include_directories(um_giflib SYSTEM INTERFACE ${UM_GIF_INCLUDE})
target_link_libraries(um_giflib INTERFACE ${UM_GIF_LIBRARY})
add_library(um::gif ALIAS um_giflib)

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
