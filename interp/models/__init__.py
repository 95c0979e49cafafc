"""Language models: chats, sources, adapters, hook points, generation, activations."""
