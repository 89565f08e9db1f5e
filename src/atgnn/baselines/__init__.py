"""Other networks behind ATGNN's interface: to compare with, and to learn from.

    base               -> what all share
    cnn14              -> PANNs' CNN14
    psla, efficientnet -> PSLA, and the EfficientNet-Lite that its backbone is one of
    ast                -> the Audio Spectrogram Transformer, on the package `transformers`
    audio_transformer  -> Audio Transformers, on raw waveforms
    wav2clip           -> Wav2CLIP
    fsd50k_vgg         -> the VGG-like network of the FSD50K paper
    small_cnn          -> a plain small network of ours
    published          -> published weights in, with ..._weights and `imagenet`

`atgnn.networks` is the table of them all.
"""
