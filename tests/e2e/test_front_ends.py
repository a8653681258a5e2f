#!/usr/bin/env python3
"""Audio files through our decoder and front ends beside the libraries that the reference uses: soundfile and librosa for the wave (spec
2.3), transformers' WhisperFeatureExtractor for the log-mel (2.4) and its Kaldi filter bank for sound (2.5). Recorded files, and what
espeak-ng says and sox plays where these are installed.

usage: test_front_ends.py PROGRAM SOURCE        exit 77: the libraries of tests/requirements.txt are not there (tests/run installs them)
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

from common import again_in

PROGRAM, SOURCE = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
try:
    import librosa
    import numpy
    import safetensors.numpy
    import soundfile
    import transformers
    from transformers import audio_utils
except ImportError as missing:
    again_in("venv", SOURCE, missing)

GOLDEN, MEDIA = SOURCE / "tests" / "golden" / "media", SOURCE / "tests" / "media"
LOSSY = (".mp3", ".ogg")


def made(folder):
    """Speech of espeak-ng and tones of sox, at other rates, widths and channel counts."""
    if shutil.which("espeak-ng"):
        subprocess.run(["espeak-ng", "-w", folder / "said.wav", "A quick test of nine or ten words, said by a machine."], check=True)
    if shutil.which("sox"):
        for name, rate, more, effect in (("sweep.wav", "44100", ["-b", "24"], ["sine", "100-7000"]), ("chord.flac", "48000", ["-c", "2"], ["pluck", "A3"]),
                                         ("noise8k.wav", "8000", [], ["pinknoise"]), ("low.ogg", "32000", [], ["triangle", "440"])):
            subprocess.run(["sox", "-q", "-n", "-r", rate, *more, folder / name, "synth", "3.3", *effect, "vol", "0.6"], check=True)
    return sorted(folder.glob("*.*"))


def wave_of(path):
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    return mono if rate == 16000 else librosa.resample(mono, orig_sr=rate, target_sr=16000)


def fbank_of(wave):
    """Kaldi's filter bank in transformers' words (its own extractors use it so where torchaudio is absent)."""
    filters = audio_utils.mel_filter_bank(num_frequency_bins=256, num_mel_filters=128, min_frequency=20, max_frequency=8000, sampling_rate=16000, norm=None,
                                          mel_scale="kaldi", triangularize_in_mel_space=True)
    window = audio_utils.window_function(400, "povey", periodic=False)
    rows = audio_utils.spectrogram(wave.astype("float64") * 32768, window, frame_length=400, hop_length=160, fft_length=512, power=2.0, center=False,
                                   preemphasis=0.97, mel_filters=numpy.pad(filters, ((0, 1), (0, 0))), log_mel="log", mel_floor=1.192092955078125e-07,
                                   remove_dc_offset=True).T
    return (rows - 15.41663) / (2 * 6.55582)


def compare(path, folder):
    out = folder / "out.safetensors"
    done = subprocess.run([PROGRAM, path, out], capture_output=True, text=True)
    if done.returncode != 0:
        return [f"{path.name}: {done.stderr}"]
    ours, wave = safetensors.numpy.load_file(out), wave_of(path)
    if ours["wave"].shape != wave.shape:
        return [f"{path.name}: {ours['wave'].shape} samples, want {wave.shape}"]
    window = ours["wave"][:480000]  # what follows is judged on the same samples
    mel = transformers.WhisperFeatureExtractor()(window, sampling_rate=16000, return_tensors="np").input_features[0].T
    fbank = fbank_of(window)
    if ours["fbank"].shape != fbank.shape or ours["mel"].shape != mel.shape:
        return [f"{path.name}: fbank {ours['fbank'].shape}, want {fbank.shape}; mel {ours['mel'].shape}, want {mel.shape}"]
    off = {"wave": (abs(ours["wave"] - wave).max(), 1e-3 if path.suffix in LOSSY else 1e-5), "mel": (abs(ours["mel"] - mel).max(), 2e-3),
           "fbank": (abs(ours["fbank"] - fbank).max(), 2e-3)}
    print(f"{path.name}: " + ", ".join(f"{name} off by {value:.1e}" for name, (value, _) in off.items()))
    return [f"{path.name}: {name} is off by {value}, allowed {limit}" for name, (value, limit) in off.items() if not value <= limit]


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        files = [GOLDEN / n for n in ("speech.wav", "siren.wav", "speech22k.wav", "stereo11k.wav", "long.flac")]
        files += [MEDIA / n for n in ("tones.flac", "tones24.flac", "tones.mp3")] + made(folder)
        failures = [words for path in files for words in compare(path, folder)]
    print(*failures, sep="\n")
    print(f"{len(files) - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
