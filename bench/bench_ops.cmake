add_executable(bench_ops ${CMAKE_CURRENT_LIST_DIR}/bench_ops.c ${CMAKE_CURRENT_LIST_DIR}/bench_ops_cases.c
                         ${CMAKE_CURRENT_LIST_DIR}/bench_ops_train.c ${CMAKE_CURRENT_LIST_DIR}/bench_peers.c)
target_link_libraries(bench_ops PRIVATE um_tensor um_base um_flags ${CMAKE_DL_LIBS})
if(TARGET OpenMP::OpenMP_C)
  target_link_libraries(bench_ops PRIVATE OpenMP::OpenMP_C)
endif()
# The libraries it compares with are loaded at run time, so that they see the environment that bench_peers.c sets.
foreach(peer IN ITEMS DNNL OPENBLAS)
  if(UM_${peer})
    target_compile_definitions(bench_ops PRIVATE UM_${peer}="${UM_${peer}}")
  endif()
endforeach()
