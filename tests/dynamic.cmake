# The dynamic-capacity style of mixture (spec 10.1).
um_test(test_dynamic SOURCES test_dynamic.c dynamic_layer.c folder.c LIBS um_nn)
