# Given as CMAKE_PROJECT_INCLUDE when ROS 2 comes from Python wheels.
#
# The targets that those wheels export still name include folders of the machine they were built on, and CMake
# stops at an imported target whose folder does not exist. Remove such folders once all packages are found.
function(mmcl_drop_missing_include_folders)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    set(present "")
    foreach(folder IN LISTS folders)
      if(EXISTS "${folder}" OR NOT IS_ABSOLUTE "${folder}")
        list(APPEND present "${folder}")
      endif()
    endforeach()
    if(folders)
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${present}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL mmcl_drop_missing_include_folders)
