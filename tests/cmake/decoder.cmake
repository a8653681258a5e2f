# unimoe-decoder and the rank's side of it.
function(um_decoder_test name)
  um_test(${name} SOURCES encoder_worker/${name}.c support/media_files.c support/tiny_png.c support/decoder_fixture.c LIBS um_test_fixture um_towers um_decode um_nn)
  target_compile_definitions(${name} PRIVATE UM_DECODER="$<TARGET_FILE:unimoe-decoder>")
  add_dependencies(${name} unimoe-decoder)
endfunction()

um_decoder_test(test_decoder)
um_decoder_test(test_sound_files)
um_decoder_test(test_videos)

add_executable(lying_decoder programs/lying_decoder.c)
target_link_libraries(lying_decoder PRIVATE um_decode_wire um_flags)
set_target_properties(lying_decoder PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
um_decoder_test(test_decoder_faults)
target_compile_definitions(test_decoder_faults PRIVATE UM_LYING_DECODER="$<TARGET_FILE:lying_decoder>")
add_dependencies(test_decoder_faults lying_decoder)
um_decoder_test(test_sandbox)

# The same with the towers behind it.
um_test(test_encode SOURCES encoder_worker/test_encode.c encoder_worker/encoder_fixture.c support/decoder_fixture.c support/guarded_ops.c support/made_params.c LIBS um_test_fixture um_encoder)
target_compile_definitions(test_encode PRIVATE UM_DECODER="$<TARGET_FILE:unimoe-decoder>")
add_dependencies(test_encode unimoe-decoder)
um_test(test_encoder_train SOURCES encoder_worker/test_encoder_train.c encoder_worker/encoder_fixture.c support/decoder_fixture.c support/guarded_ops.c support/made_params.c LIBS um_test_fixture um_encoder)
target_compile_definitions(test_encoder_train PRIVATE UM_DECODER="$<TARGET_FILE:unimoe-decoder>")
add_dependencies(test_encoder_train unimoe-decoder)
