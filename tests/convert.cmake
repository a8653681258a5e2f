# The converter of released checkpoints, and what it is made of.
um_test(test_sha256 SOURCES test_sha256.c LIBS um_base)
