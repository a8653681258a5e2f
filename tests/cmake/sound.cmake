um_test(test_fbank SOURCES encoder_worker/test_fbank.c support/tiny_wav.c LIBS um_test_support um_towers)
um_test(test_sound SOURCES encoder_worker/towers/test_sound.c support/guarded_ops.c support/folder.c support/tower_fixture.c support/made_params.c support/tiny_wav.c LIBS um_test_support um_towers)
um_test_guarded(test_sound)
