um_test(test_fbank SOURCES test_fbank.c tiny_wav.c LIBS um_test_support um_media)
um_test(test_sound SOURCES test_sound.c tiny_wav.c LIBS um_test_support um_media)
