"""Tiny random models of other libraries and runtimes, made at once."""

import json

import torch

from atgnn import export

LABELS = ("Dog", "Chirp, tweet", "Rain")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def labelled(names, problem):
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": problem,
    }


def save_ast(folder, names=LABELS, problem="multi_label_classification", frames=128):
    """A random AST that hears windows of `frames` frames."""
    import transformers

    extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=frames)
    config = transformers.ASTConfig(
        **SMALL, **labelled(names, problem), intermediate_size=16, num_mel_bins=32,
        max_length=frames,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ASTForAudioClassification(config)
    torch.nn.init.normal_(model.classifier.dense.weight)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def save_wav2vec2(folder, problem="single_label_classification"):
    """A random Wav2Vec2, which takes any length."""
    import transformers

    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    config = transformers.Wav2Vec2Config(
        **SMALL, **labelled(("yes", "no"), problem), intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(20, 16), conv_kernel=(40, 16), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def made_onnx(path, checkpoint):
    """A graph that takes and gives what ours do, of five labels, and knows nothing of sound."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 5], [3.0, -2.0, 1.0, 5.0, 0.5])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [
            node("Abs", ["wave"], ["size"]),
            node("ReduceMean", ["size", "axis"], ["level"]),
            node("MatMul", ["level", "w"], ["logits"]),
            node("Sigmoid", ["logits"], ["scores"]),
        ],
        "made",
        [
            helper.make_tensor_value_info("wave", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5])],
        [weight, axis],
    )
    opset = [helper.make_opsetid("", export.OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    entry = model.metadata_props.add()
    entry.key, entry.value = "atgnn", json.dumps(export.describe(checkpoint, True, False))
    onnx.save(model, path)
    return path
