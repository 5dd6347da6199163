"""Both kinds of block under torch.compile: one graph for every length of text and picture."""

import pytest
import support
import torch

load_pack = support.dev.load_pack


@pytest.fixture
def counted():
    """A compiler that runs what it is given as it is, and the number of graphs that it was given."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    yield backend, graphs
    torch.compiler.reset()


def test_blocks_are_compiled_once_for_prompts_of_any_length(counted):
    backend, graphs = counted
    cfg = support.config(double=1, single=1)
    net = support.build(cfg)
    net.load_state_dict(support.random_weights(cfg))
    plain = {}
    lengths = ((11, 8, 10), (7, 8, 10), (23, 12, 6), (40, 4, 4))  # text, rows and columns of the picture's tokens

    def calls():
        for text, rows, columns in lengths:
            ids = load_pack("chroma_model.embeddings").position_ids(text, rows, columns)
            pe = net.embed_positions(ids, torch.zeros(1), (rows, columns))
            generator = torch.Generator().manual_seed(text)
            img, txt = (torch.randn(1, n, cfg.hidden_size, generator=generator) for n in (rows * columns, text))
            vec = net.modulations(torch.full((1,), 0.5), torch.zeros(1))
            img, txt = net.double_blocks[0](img, txt, net.table.double(vec, 0), pe)
            joint = net.single_blocks[0](torch.cat((txt, img), 1), net.table.single(vec, 0), pe)
            yield text, joint

    with torch.inference_mode():
        plain = dict(calls())
        for blocks in (net.double_blocks, net.single_blocks):
            blocks[0].compile(backend=backend, dynamic=True)
        for text, joint in calls():
            assert support.relative(joint, plain[text]) < 1e-6
    assert len(graphs) == 2  # one for each kind of block
