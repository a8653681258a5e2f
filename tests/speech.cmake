um_test(test_fft SOURCES test_fft.c LIBS um_media)
um_test(test_mel SOURCES test_mel.c tiny_wav.c LIBS um_media)
um_test(test_speech SOURCES test_speech.c tiny_wav.c LIBS um_media)
um_test(test_linear SOURCES test_linear.c folder.c LIBS um_nn)
