"""Engines that write text and embed it: llama.cpp in this process, vLLM and Ollama as servers."""
