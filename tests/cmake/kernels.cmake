um_test(test_dtype SOURCES core/tensor/test_dtype.c LIBS um_tensor)
um_test(test_ops SOURCES core/tensor/test_ops.c core/tensor/test_ops_cases.c
        core/tensor/test_ops_train_cases.c LIBS um_tensor)
um_test(test_guarded SOURCES core/tensor/test_guarded.c support/guarded_ops.c LIBS um_tensor)
um_test(test_ops_memory SOURCES core/tensor/test_ops_memory.c support/guarded_ops.c LIBS um_tensor)
um_test(test_attention SOURCES core/tensor/test_attention.c LIBS um_tensor)
um_test(test_attention_spans SOURCES core/tensor/test_attention_spans.c LIBS um_tensor)
um_test(test_attention_bwd SOURCES core/tensor/test_attention_bwd.c LIBS um_tensor)
um_test(test_grad SOURCES core/tensor/test_grad.c LIBS um_tensor)
