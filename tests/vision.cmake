um_test(test_picture SOURCES test_picture.c tiny_png.c LIBS um_media um_pictures)
um_test(test_preprocess SOURCES test_preprocess.c LIBS um_media um_pictures)
um_test(test_vision SOURCES test_vision.c LIBS um_media um_pictures)
