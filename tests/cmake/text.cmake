# The way of a text: tokens, template, requests, sampling.
add_library(um_test_support STATIC ${CMAKE_CURRENT_SOURCE_DIR}/support/test_support.c)
target_link_libraries(um_test_support PUBLIC um_nn um_base um::cmocka)
target_compile_definitions(um_test_support PUBLIC UM_TEST_DATA="${CMAKE_CURRENT_SOURCE_DIR}")

um_test(test_tokenizer SOURCES router/test_tokenizer.c LIBS um_test_fixture um_test_support um_router)
um_test(test_prompt SOURCES router/test_prompt.c LIBS um_test_fixture um_test_support um_router)
um_test(test_request SOURCES router/test_request.c LIBS um_test_fixture um_router)
um_test(test_result_order SOURCES router/test_result_order.c LIBS um_router)
um_test(test_sequence SOURCES router/test_sequence.c LIBS um_test_fixture um_test_support um_router)
um_test(test_unfinished SOURCES router/test_unfinished.c LIBS um_router)
um_test(test_input SOURCES router/test_input.c LIBS um_test_fixture um_router)
um_test(test_sampler SOURCES router/test_sampler.c LIBS um_test_fixture um_router)
