# Training between ranks: sums of gradients, the optimiser, the end of a step, what expert ranks keep.
um_test(test_train_exchange SOURCES cluster/train/test_train_exchange.c cluster/train/train_job.c support/made_params.c support/test_support.c LIBS um_test_fixture um_cluster um_train)
