um_test(test_fft SOURCES test_fft.c LIBS um_media)
