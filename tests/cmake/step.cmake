# Training between ranks: sums of gradients, the optimiser, the end of a step, what expert ranks keep.
um_test(test_train_exchange SOURCES cluster/train/test_train_exchange.c cluster/train/train_job.c support/made_params.c support/test_support.c LIBS um_test_fixture um_cluster um_train)
um_test(test_train_faults SOURCES cluster/train/test_train_faults.c cluster/train/train_job.c support/made_params.c support/test_support.c LIBS um_cluster um_train)
um_test(test_grad_tree SOURCES core/train/test_grad_tree.c LIBS um_train)
um_test(test_optimizer SOURCES core/train/test_optimizer.c support/made_params.c LIBS um_test_fixture um_train)
um_test(test_train_frames SOURCES cluster/train/test_train_frames.c cluster/train/train_job.c support/made_params.c support/test_support.c LIBS um_cluster um_train)
um_test(test_train_encoders SOURCES cluster/train/test_train_encoders.c LIBS um_test_fixture um_cluster um_train)
