um_test(test_dtype SOURCES test_dtype.c LIBS um_tensor)
um_test(test_ops SOURCES test_ops.c test_ops_cases.c LIBS um_tensor)
um_test(test_attention SOURCES test_attention.c LIBS um_tensor)
um_test(test_grad SOURCES test_grad.c LIBS um_tensor)
