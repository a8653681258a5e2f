# Evaluation: metrics and the formats of benchmarks.
um_test(test_metrics SOURCES launch/eval/test_metrics.c LIBS um_test_fixture um_eval)
um_test(test_eval_read SOURCES launch/eval/test_eval_read.c LIBS um_test_fixture um_eval)
