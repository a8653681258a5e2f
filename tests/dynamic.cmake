# The dynamic-capacity style of mixture (spec 10.1).
um_test(test_dynamic SOURCES test_dynamic.c dynamic_layer.c folder.c LIBS um_nn)
um_test(test_dynamic_cluster SOURCES test_dynamic_cluster.c dynamic_layer.c golden.c folder.c LIBS um_cluster um_launch)
um_test(test_dynamic_model SOURCES test_dynamic_model.c dynamic_layer.c edit.c folder.c LIBS um_nn)
