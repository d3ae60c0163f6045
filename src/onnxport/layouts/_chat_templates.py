"""Put the chat templates of an export into tokenizer_config.json, where clients other than Transformers read them."""

from __future__ import annotations

from onnxport.layouts._layout import Exported, Settings

_FOLDER = "additional_chat_templates/"


def with_chat_template(settings: Settings, exported: Exported) -> Settings:
    """Return the content of tokenizer_config.json with `chat_template`.

    Args:
        settings: the content; it stays as it is if it has templates.
        exported: the export.
    """
    if not settings or settings.get("chat_template"):
        return settings
    main = exported.text("chat_template.jinja") or exported.read("chat_template.json").get("chat_template", "")
    others = {
        name.removeprefix(_FOLDER).removesuffix(".jinja"): exported.text(name)
        for name in exported.manifest.files
        if name.startswith(_FOLDER)
    }
    if not others:
        return {**settings, "chat_template": main} if main else settings
    named = {**({"default": main} if main else {}), **others}
    return {**settings, "chat_template": [{"name": name, "template": text} for name, text in named.items()]}
