"""Weights as files: where they are (`resolve.py`), what they are (`detect.py`), which LoRAs fit (`lora.py`)."""
