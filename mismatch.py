"""How the sky that a model was trained on differs from the one that it is shown, in few words."""


def differences(trained, observed):
    """How two skies differ.

    Args:
        trained: The entries of storage.SKY_KEYS that are known of one sky, from storage.sky.
        observed: Those of the other.

    Returns:
        {key: (entry of trained, entry of observed)}, empty where a sky is unknown. A sky that was
        not cleaned has no entry `cleaning`; any other entry that one lacks counts as unknown.
    """
    if not trained or not observed:
        return {}
    pairs = {
        key: (trained.get(key), observed.get(key))
        for key in [*trained, "cleaning"]
        if key in observed or key == "cleaning"
    }
    return {key: (own, other) for key, (own, other) in pairs.items() if own != other}


def tell(own, other):
    """Few words each for two entries that differ: a name, and what differs where that is the same.

    Args:
        own: An entry of a sky: a number, a list, a dict, or None.
        other: Another.
    """
    words = _title(own), _title(other)
    if words[0] != words[1] or not (isinstance(own, dict) and isinstance(other, dict)):
        return words
    keys = [key for key in {**own, **other} if own.get(key) != other.get(key)]
    return tuple(
        f"{words[0]} with " + ", ".join(f"{key} {_title(entry.get(key))}" for key in keys)
        for entry in (own, other)
    )


def _title(entry):
    if isinstance(entry, dict):
        return entry.get("name") or entry.get("method") or f"{_title(entry.get('freq_ghz'))} GHz"
    if isinstance(entry, list):
        return " ".join(map(_title, entry))
    if isinstance(entry, (int, float)):
        return f"{entry:g}"
    return "none" if entry is None else str(entry)
