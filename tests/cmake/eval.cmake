# Evaluation: metrics and the formats of benchmarks.
um_test(test_metrics SOURCES launch/eval/test_metrics.c LIBS um_test_fixture um_eval)
