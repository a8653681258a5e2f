# The arena and the folder that many tests start from.
add_library(um_test_fixture STATIC ${CMAKE_CURRENT_SOURCE_DIR}/support/fixture.c ${CMAKE_CURRENT_SOURCE_DIR}/support/folder.c)
target_link_libraries(um_test_fixture PRIVATE um_flags PUBLIC um_base um::cmocka)
