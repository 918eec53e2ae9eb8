"""The engine: one step, one loop, states and exports. Mute: it raises named errors and appends events."""
