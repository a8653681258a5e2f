um_test(test_image SOURCES encoder_worker/test_image.c support/tiny_png.c LIBS um_test_fixture um_towers um_images)
um_test(test_image_formats SOURCES encoder_worker/test_image_formats.c LIBS um_test_fixture um_images)
um_test(test_preprocess SOURCES encoder_worker/test_preprocess.c LIBS um_test_fixture um_towers um_images)
um_test(test_vision SOURCES encoder_worker/test_vision.c support/made_params.c LIBS um_test_support um_towers um_images)
