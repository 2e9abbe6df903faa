"""Rendered RGB-D crops: meshes, scenes, ray casting, shading and the model of the depth sensor."""
