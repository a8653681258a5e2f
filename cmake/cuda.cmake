# Looks for a CUDA toolkit. UM_CUDA: AUTO takes one where it is found, ON demands it, OFF does not look.
# UM_CUDA_FOUND and UM_CUDA_VERSION are the result; without a toolkit everything builds for the CPU.
set(UM_CUDA AUTO CACHE STRING "CUDA toolkit: AUTO, ON or OFF")
set_property(CACHE UM_CUDA PROPERTY STRINGS AUTO ON OFF)

set(UM_CUDA_FOUND FALSE)
set(UM_CUDA_VERSION "")
if(UM_CUDA STREQUAL "AUTO" OR UM_CUDA)
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_FOUND)
    set(UM_CUDA_FOUND TRUE)
    set(UM_CUDA_VERSION ${CUDAToolkit_VERSION})
  elseif(NOT UM_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "UM_CUDA is ON but no CUDA toolkit was found: install one, name it with "
                        "-DCUDAToolkit_ROOT=DIR, or configure with -DUM_CUDA=AUTO")
  endif()
endif()
