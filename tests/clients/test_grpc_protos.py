"""The protocol that the server describes by reflection, field by field against tritonclient's own descriptors."""

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import model_config_pb2, service_pb2

Field = descriptor_pb2.FieldDescriptorProto


def triton():
    """File name -> file of tritonclient's."""
    files = {}
    for name, module in [("inference.proto", service_pb2), ("model_config.proto", model_config_pb2)]:
        files[name] = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(files[name])
    return files


@pytest.fixture(scope="module")
def ours(plain):
    with grpc.insecure_channel(f"127.0.0.1:{plain.grpc_port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        return {name: database.FindFileByName(name) for name in ("inference.proto", "model_config.proto")}


def messages(file):
    """Full name -> message, those within others included; the entries of maps too."""
    found = {}

    def add(prefix, message):
        found[f"{prefix}.{message.name}"] = message
        for inner in message.nested_type:
            add(f"{prefix}.{message.name}", inner)

    for message in file.message_type:
        add(file.package, message)
    return found


def enums(file):
    found = {f"{file.package}.{e.name}": e for e in file.enum_type}
    for name, message in messages(file).items():
        found |= {f"{name}.{e.name}": e for e in message.enum_type}
    return {name: {value.name: value.number for value in e.value} for name, e in found.items()}


def fields(message):
    """Name -> all that decides how a field lies on the wire, and in which oneof it is."""
    return {
        f.name: (
            f.number,
            Field.Type.Name(f.type),
            Field.Label.Name(f.label),
            f.type_name,
            message.oneof_decl[f.oneof_index].name if f.HasField("oneof_index") else None,
            f.options.packed if f.options.HasField("packed") else None,
        )
        for f in message.field
    }


def reserved(message):
    return {number for r in message.reserved_range for number in range(r.start, r.end)}


def test_the_service_has_every_method(ours):
    def methods(file):
        (service,) = file.service
        described = {
            m.name: (m.input_type, m.output_type, m.client_streaming, m.server_streaming) for m in service.method
        }
        return f"{file.package}.{service.name}", described

    assert methods(ours["inference.proto"]) == methods(triton()["inference.proto"])
    assert len(methods(ours["inference.proto"])[1]) == 20


def test_every_message_of_the_service_is_tritons(ours):
    mine, theirs = messages(ours["inference.proto"]), messages(triton()["inference.proto"])
    assert mine.keys() == theirs.keys()
    for name, message in theirs.items():
        assert fields(mine[name]) == fields(message), name
        assert mine[name].options.map_entry == message.options.map_entry, name
    assert enums(ours["inference.proto"]) == enums(triton()["inference.proto"])


def test_the_model_configuration_is_a_part_of_tritons(ours):
    """What is there is the same; what is left out of a message has its number reserved."""
    mine, theirs = messages(ours["model_config.proto"]), messages(triton()["model_config.proto"])
    assert "inference.ModelConfig" in mine and len(mine) >= 10
    for name, message in mine.items():
        all_fields, present = fields(theirs[name]), fields(message)
        assert present == {field: all_fields[field] for field in present}, name
        left_out = {all_fields[field][0] for field in all_fields.keys() - present.keys()}
        assert left_out <= reserved(message), f"{name}: {left_out - reserved(message)} are not reserved"
        assert not reserved(message) & {number for number, *_ in present.values()}, name
    mine, theirs = enums(ours["model_config.proto"]), enums(triton()["model_config.proto"])
    assert mine == {name: theirs[name] for name in mine}
    assert len(mine["inference.DataType"]) == 15


@pytest.mark.parametrize("change", ["number", "type", "label", "name", "type_name"])
def test_the_comparison_sees_a_change(ours, change):
    """Each kind of mistake in one field shows."""
    file = descriptor_pb2.FileDescriptorProto()
    file.CopyFrom(ours["inference.proto"])
    message = messages(file)["inference.ModelInferRequest"]
    field = next(f for f in message.field if f.name == "inputs")
    match change:
        case "number":
            field.number = 17
        case "type":
            field.type = Field.TYPE_BYTES
        case "label":
            field.label = Field.LABEL_OPTIONAL
        case "name":
            field.name = "input"
        case "type_name":
            field.type_name = ".inference.InferTensorContents"
    theirs = messages(triton()["inference.proto"])["inference.ModelInferRequest"]
    assert fields(message) != fields(theirs)


def test_reflection_lists_every_service(plain):
    with grpc.insecure_channel(f"127.0.0.1:{plain.grpc_port}") as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services >= {
        "inference.GRPCInferenceService",
        "baidu.paddle_serving.pipeline_serving.PipelineService",
        "grpc.health.v1.Health",
    }
