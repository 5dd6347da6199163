"""The inputs of our nodes one by one, those of dynamic choices too, as `check_inputs` is given them."""


def inputs(node):
    """(what is given to check_inputs for a value, input) of all inputs, those of dynamic choices too."""
    from comfy_api.latest import io

    schema = node.define_schema()
    for one in schema.inputs:
        if isinstance(one, io.DynamicCombo.Input):
            for option in one.options:
                for sub in option.inputs:
                    yield (lambda v, o=one, k=option.key, s=sub: {o.id: {o.id: k, s.id: v}}), f"{one.id}.{sub.id}", sub
        else:
            yield (lambda v, o=one, many=schema.is_input_list: {o.id: [v] if many else v}), one.id, one


def chosen(node):
    """The dynamic choices that a node needs."""
    from comfy_api.latest import io

    combos = (one for one in node.define_schema().inputs if isinstance(one, io.DynamicCombo.Input) and not one.optional)
    return {one.id: {one.id: one.options[0].key} for one in combos}
